"""What runs beside the private data: data sets, local training, and the vault that is their only door."""
