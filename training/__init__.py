"""From data to a trained, calibrated, exported autoencoder. torch lives here, and only here."""
