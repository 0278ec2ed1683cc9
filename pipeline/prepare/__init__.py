"""`samdiff prepare`: scan a source, plan, make masks, cut tiles, commit; the staging folder that a killed run resumes from."""
