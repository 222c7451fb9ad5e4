"""What sensitivities cost, whether their bound holds, and whether their approximations agree."""
