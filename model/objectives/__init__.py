"""What stage two is trained for beside its main loss, and how its collapse is seen: perceptual distance, scale of the residual, diversity."""
