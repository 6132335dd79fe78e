"""What every room may use: errors, text and files of our own, what is printed, and nothing of CLIP."""
