"""Where students' files lie: made before a start, measured, copied every hour."""
