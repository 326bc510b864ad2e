"""Virtual machine disks: laid out, installed, made independent of their device, converted, booted."""
