"""The boot archive and the boot menu."""
