"""What a bisection is, how it stands and which build is tested next: pure."""
