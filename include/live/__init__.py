"""Who answers at the live address."""
