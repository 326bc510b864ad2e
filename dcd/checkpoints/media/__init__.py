"""Media: the ISO, the USB stick's image, and the proof that they boot."""
