"""What runs on the host that reads pages."""
