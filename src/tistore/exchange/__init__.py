"""Moving in and moving out: importing what other tools wrote, exporting what they read."""
