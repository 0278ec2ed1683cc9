"""Downloads that withstand faulty servers; data sets by name."""
