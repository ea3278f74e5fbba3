"""``idl-hub doctor``: looks at every part from the outside, and says what to do about what is wrong."""
