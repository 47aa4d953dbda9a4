"""Real servers, engines and edges under faults, in virtual time: every answer is judged."""
