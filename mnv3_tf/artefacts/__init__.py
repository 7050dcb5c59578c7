"""What the kit writes: run folders, and the cards that say what a file is and where it comes from."""
