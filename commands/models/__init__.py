"""Commands about models: train, infer, evaluate, compare, import-checkpoint, publish, export-model."""
