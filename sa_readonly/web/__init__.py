"""What a web application shows and answers while read-only."""
