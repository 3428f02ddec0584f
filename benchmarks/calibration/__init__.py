"""Can the verdict be believed? False accusations, detections and refusals, on simulated audits and on real models."""
