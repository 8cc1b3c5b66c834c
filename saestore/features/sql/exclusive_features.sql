-- Features that are long at one head alone: `alone` if latent scaling confirms it, or why it does not.
-- hookpoint str: part of the head's name
-- n int = 50: how many features
SELECT h.feature, h.hookpoint, h.verdict, h.norm_ratio, h.nu_error, h.nu_reconstruction, f.density, f.max
FROM feature_heads h
JOIN features f USING (feature)
WHERE h.norm_ratio < .2 AND h.n_firings > 0 AND contains(h.hookpoint, $hookpoint)
ORDER BY h.verdict <> 'alone', h.verdict, f.density DESC, h.feature
LIMIT $n
