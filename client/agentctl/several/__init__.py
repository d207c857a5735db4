"""Several hosts asked at once, and what is still known of those that do not answer."""
