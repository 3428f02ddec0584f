"""The matrix: three threats of fine-tuning against the defences, measured in one frame, with the price of each."""
