"""Sets generated showers beside Geant4 ones: features, metrics, acceptance targets, figures and the report."""
