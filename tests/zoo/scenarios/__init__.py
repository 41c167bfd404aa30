"""What happens in the simulated worlds in which a planted defect has to show itself."""
