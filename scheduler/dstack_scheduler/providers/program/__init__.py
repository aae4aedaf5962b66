"""What travels to the program of an own provider."""
