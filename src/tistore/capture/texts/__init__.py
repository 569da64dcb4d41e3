"""From conversations to tokens and back: whose words each token is."""
