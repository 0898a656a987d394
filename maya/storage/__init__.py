"""Object storage that speaks the protocol of S3 (Cloudflare R2 too): runs go up to it and come back."""
