"""What happens around a training step: Lightning callbacks."""
