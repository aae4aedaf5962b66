"""The owner of the machine has the last word: her policy, her pauses, her cards back."""
