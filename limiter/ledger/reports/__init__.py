"""What calls cost, summed up by anything that tells them apart."""
