"""The study high temperature."""
