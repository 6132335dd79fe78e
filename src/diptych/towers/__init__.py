"""The image and text towers, and CLIP, which has one of each."""
