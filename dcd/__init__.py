"""The distribution constructor daemon."""
