"""From encoded images to a model's pixels: decoding, resizing, cropping, augmentation."""
