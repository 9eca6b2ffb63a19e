"""Pictures of answers, figures and pages."""
