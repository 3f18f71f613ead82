"""What a master stands on: its loop, systemd, the journal, and whatever closes descriptors."""
