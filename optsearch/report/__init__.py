"""What people read: headlines of comparisons, in words and in pictures."""
