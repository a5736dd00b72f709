"""One KIS access token a day, shared by every job and every machine."""
