"""What the stream has told so far: label statistics and context features of users and items."""
