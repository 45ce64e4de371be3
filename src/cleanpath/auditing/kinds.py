"""What the operations of a graph do to a signal, by the small-letter names of autograd's nodes."""

from collections.abc import Iterable

LAYOUT = frozenset(
    "view unsafeview reshapealias viewasreal viewascomplex transpose permute t adjoint movedim squeeze unsqueeze clone contiguous "
    "alias asstrided tocopy copy expand unflatten flatten swapaxes lift liftfresh roll flip pixelshuffle pixelunshuffle toopaque "
    "viewdtype unfold channelshuffle nativechannelshuffle toddensebackward viewcopy detach warnnotimplemented".split()
)
SLICES = frozenset(
    "slice narrow select split splitwithsizes unsafesplit unsafesplitwithsizes chunk unbind index indexselect gather take diagonal".split()
)
PADS = frozenset({"constantpadnd", "cat"})
SCALES = frozenset({"mul", "div", "neg"})
DROPOUTS = frozenset({"nativedropout", "fuseddropout", "alphadropout", "featuredropout"})
ACTIVATIONS = frozenset(
    "relu gelu silu sigmoid tanh leakyrelu hardswish hardtanh hardsigmoid elu mish softplus prelu celu selu threshold "
    "clamp clampmin clampmax logsigmoid softshrink hardshrink softsign glu rrelu rreluwithnoise softmax logsoftmax erf".split()
)
NORMS = frozenset(
    "nativebatchnorm cudnnbatchnorm miopenbatchnorm nativebatchnormlegit batchnormwithupdate nativelayernorm nativegroupnorm "
    "fusedrmsnorm instancenorm batchnormimpl syncbatchnorm".split()
)
POOLS = frozenset(
    "avgpool1d avgpool2d avgpool3d maxpool1d maxpool2d maxpool2dwithindices maxpool3dwithindices mkldnnmaxpool2d mean "
    "adaptiveavgpool2d adaptiveavgpool3d adaptivemaxpool2d mkldnnadaptiveavgpool2d amax max".split()
)
RESAMPLINGS = frozenset(
    "upsamplenearest1d upsamplenearest2d upsamplenearest3d upsamplenearestexact1d upsamplenearestexact2d upsamplenearestexact3d "
    "upsamplebilinear2d upsamplebilinear2daa upsamplebicubic2d upsamplebicubic2daa upsamplelinear1d upsampletrilinear3d "
    "gridsampler2d gridsampler3d".split()
)
SPREADS = frozenset("rsqrt sqrt std stdmean var varmean linalgvectornorm norm".split())
"""Their presence beside products means a normalisation written out by hand."""
ELEMENTWISE = frozenset("mul div add sub rsub addcmul addcdiv neg pow lerp where maskedfill exp log sqrt rsqrt abs".split())
READS = frozenset("embedding embeddingbag stack maskedscatter indexput scatter sliceScatter selectscatter".split())
NOT_MIXING = ELEMENTWISE | NORMS | LAYOUT | SLICES | PADS | ACTIVATIONS | READS
PRODUCTS = frozenset("mm bmm addmm baddbmm addbmm mv addmv dot scaleddotproductflashattentionforcpu".split())
GATES = frozenset("sigmoid softmax hardsigmoid tanh hardtanh clamp".split())

AFTER_WORDS = ((ACTIVATIONS, None), (NORMS, "normalisation"), (POOLS, "pooling"), (RESAMPLINGS, "resampling"), (DROPOUTS, "dropout"))


def in_words(kinds: Iterable[str]) -> tuple[str, ...]:
    """A chain of operations in a reader's words: layout left out, a normalisation written by hand named as one.

    >>> in_words(["pow", "mean", "add", "rsqrt", "mul", "mul"])
    ('normalisation',)
    >>> in_words(["view", "nativebatchnorm", "relu"])
    ('normalisation', 'relu')
    """
    met = [kind for kind in kinds if kind not in LAYOUT]
    if SPREADS.intersection(met):
        return ("normalisation", *(kind for kind in met if kind in ACTIVATIONS))
    words: list[str] = []
    for kind in met:
        word = next((name or kind for group, name in AFTER_WORDS if kind in group), None)
        words.append(word or ("scaling" if kind in SCALES else kind))
    return tuple(words)
