"""Images for people to look at: comparisons, contact sheets, masks in colour, text. Pure: arrays in, arrays out."""
