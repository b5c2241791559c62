"""Gates that are shipped: each looks at what a hook's event names, and says yes or no."""
