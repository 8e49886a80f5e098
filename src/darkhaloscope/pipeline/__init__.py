"""One experiment from pixels to verdict: stages in order, each resumed by the fingerprint of its input."""
