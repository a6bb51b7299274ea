"""What a finished cell leaves."""
