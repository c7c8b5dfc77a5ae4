"""The formats of quantized weights, a file each. They travel with every stage program."""
