"""What the demo needs where no model hub can be reached."""
