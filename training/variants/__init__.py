"""One file per autoencoder; each registers itself (training/autoencoder.py)."""
