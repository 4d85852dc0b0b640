#version 460
#extension GL_GOOGLE_include_directive : require
// attention over the paged KV cache; how the work is cut: attention.cpp.
//! variant naive -DNAIVE
//! variant split -DSPLIT
//! variant merge -DMERGE
//! variant tile -DTILE
//! variant coop_plain -DTILE -DPLAIN_FRAGMENTS
//! variant coop -DTILE -DCOOP needs=coopmat
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "kernels/attention/attention_page.glsl"
#include "kernels/attention/attention_common.glsl"
#ifndef MERGE
#include "kernels/attention/attention_keys.glsl"
#endif
#ifdef NAIVE
#include "kernels/attention/attention_naive.glsl"
#else
#include "kernels/attention/attention_units.glsl"
#endif
#ifdef SPLIT
#include "kernels/attention/attention_split.glsl"
#endif
#ifdef MERGE
#include "kernels/attention/attention_merge.glsl"
#endif
#if defined(COOP) || defined(PLAIN_FRAGMENTS)
#include "kernels/attention/attention_coop.glsl"
#elif defined(TILE)
#include "kernels/attention/attention_tile.glsl"
#endif
