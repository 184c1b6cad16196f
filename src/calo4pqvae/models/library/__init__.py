"""The family of shower libraries: frozen showers, drawn again."""
