"""The image and text towers, and CLIP, which holds one of each."""
