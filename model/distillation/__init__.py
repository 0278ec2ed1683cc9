"""`samdiff distill`: a student of one step learns from HR and from the images of its teacher."""
