"""Changes to the image area, and its compression."""
