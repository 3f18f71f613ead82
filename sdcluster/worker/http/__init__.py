"""The app on the HTTP engine, and what stands between them."""
