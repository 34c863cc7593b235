"""The two words every room speaks: Success and Failure."""
